"""Defines the models: CAV-MAE, its classifier, and the single-modality systems they grew out of, in the same layers."""
