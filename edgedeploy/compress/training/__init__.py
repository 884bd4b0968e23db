"""Training inside Ultralytics' trainer: sparse, fine-tuned, or beside a teacher."""
