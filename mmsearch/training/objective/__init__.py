"""What training minimises, and its gradient over batches that memory does not hold."""
