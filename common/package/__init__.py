"""A model that is used outside its run: preparation, calibration, lineage, ONNX."""
