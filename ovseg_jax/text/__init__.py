"""Text in: tokenizers, prompt templates, label spaces and vocabularies."""
