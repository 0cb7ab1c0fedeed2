"""What is shipped inside the ONNX model. It imports nothing else of ours, and never torch or transformers."""
