"""The network: layers as data, their arithmetic, the torch modules and the ONNX export."""
