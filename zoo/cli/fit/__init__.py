"""The commands that train and test: fit, validate, test, predict and params."""
