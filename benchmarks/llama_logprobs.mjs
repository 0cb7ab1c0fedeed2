// Natural log-probabilities of true next tokens by llama.cpp, in node-llama-cpp's prebuilt binary.
//
//     node benchmarks/llama_logprobs.mjs request.json     # from a folder with `npm install node-llama-cpp`
//
// The request: {"model", "threads", "windows": [{"ids": […], "start": n}]}. Prints {"logprobs": [[…], …]}: for each window the
// logarithms of the probabilities of ids[start + 1], ids[start + 2], …
import {readFileSync} from "node:fs";
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

const require = createRequire(`${process.cwd()}/`);
const {getLlama} = await import(pathToFileURL(require.resolve("node-llama-cpp")));
const request = JSON.parse(readFileSync(process.argv[2], "utf8"));
const llama = await getLlama({gpu: false, maxThreads: request.threads, logLevel: "error", build: "never"});
const model = await llama.loadModel({modelPath: request.model, gpuLayers: 0});
const longest = Math.max(...request.windows.map((window) => window.ids.length));
const context = await model.createContext({
    contextSize: longest + 8,
    batchSize: 512,
    threads: {ideal: request.threads, min: request.threads},
});
const sequence = context.getSequence();
const logprobs = [];
for (const {ids, start} of request.windows) {
    await sequence.clearHistory();
    const asked = ids.slice(0, -1).map((id, at) => at < start ? id : [id, {generateNext: {
        logits: {filter: {tokens: [ids[at + 1]], includeTop: 1}}, // its includeMax leaves the greatest out
        totalLogitWeight: true,
        options: {temperature: 1, topK: 0, topP: 1, minP: 0},
    }}]);
    const found = await sequence.controlledEvaluate(asked);
    logprobs.push(found.slice(start).map(({next}, at) => {
        const highest = Math.max(...next.logits.values());
        return next.logits.get(ids[start + at + 1]) - highest - Math.log(next.totalLogitWeight);
    }));
}
console.log(JSON.stringify({logprobs}));
process.exit(0);
