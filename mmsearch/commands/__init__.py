"""The groups of commands behind `mmsearch models`, `train` and `eval`, and what all commands share (`shared`)."""
