"""What language models share, over characters or tokens: a text, its windows, and how a model is scored and sampled."""
