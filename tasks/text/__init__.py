"""What language models share, whatever their ids: a text, its windows, score and sampling."""
