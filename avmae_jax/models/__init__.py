"""The model: layers, patches, masking, encoder, CAV-MAE."""
