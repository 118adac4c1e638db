"""An inference server that nobody makes: its engine file, its page, and what this program then knows about it."""
