"""Before any finetuning: which model, layer and data, and how sure."""
