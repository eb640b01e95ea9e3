"""The ONNX model at work: answers, inner layers, occlusion and similar images. No torch."""
