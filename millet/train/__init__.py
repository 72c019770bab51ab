"""Teaching a model: one shared loop, one file a method."""
