"""One file per experiment: a model, an optimizer and a loss composed on one screen."""
