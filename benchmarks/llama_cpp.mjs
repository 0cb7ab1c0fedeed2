// What llama.cpp makes of a GGUF file, by node-llama-cpp's prebuilt binary: speeds, and ids of texts.
//
//     node benchmarks/llama_cpp.mjs request.json     # from a folder with `npm install node-llama-cpp`
//
// The request: {"model", "threads", "prompt": [ids], "newTokens", "repeats", "texts": ["…"]}. Prints one line of JSON.
import {readFileSync} from "node:fs";
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

const require = createRequire(`${process.cwd()}/`);
const {getLlama} = await import(pathToFileURL(require.resolve("node-llama-cpp")));
const request = JSON.parse(readFileSync(process.argv[2], "utf8"));
const llama = await getLlama({gpu: false, maxThreads: request.threads, logLevel: "error", build: "never"});
const model = await llama.loadModel({modelPath: request.model, gpuLayers: 0});
const context = await model.createContext({
    contextSize: request.prompt.length + request.newTokens + 8,
    batchSize: 512,
    threads: {ideal: request.threads, min: request.threads},
});
const sequence = context.getSequence();
const prefill = [], decode = [];
for (let repeat = 0; repeat <= request.repeats; repeat++) {
    await sequence.clearHistory();
    const times = [];
    const began = performance.now();
    for await (const _ of sequence.evaluate(request.prompt, {temperature: 0, yieldEogToken: true})) {
        times.push(performance.now());
        if (times.length >= request.newTokens) break;
    }
    if (repeat === 0) continue; // it warms up
    prefill.push(1000 * request.prompt.length / (times[0] - began));
    decode.push(1000 * (times.length - 1) / (times.at(-1) - times[0]));
}
const ids = (request.texts ?? []).map((text) => Array.from(model.tokenize(text, true)));
console.log(JSON.stringify({prefill, decode, ids}));
process.exit(0);
