"""Making a trained detector smaller: sparsity-aware training, structured pruning, distillation."""
