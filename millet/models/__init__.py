"""What a model is: architectures, configuration, weights in and out, tokenizer, chat template, hub."""
