"""Says what a run would cost on GPUs, without having one: compiles its step for them and reads the program."""
