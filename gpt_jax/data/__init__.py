"""Records -> batches: sources, schemas, packing and the step-indexed pipeline."""
