"""How tokens are generated. Knows only token ids: text, templates and reasoning live above."""
