"""The same study on Megatron-LM: launch commands, data blend, and logs read back into rows."""
