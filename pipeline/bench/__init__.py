"""How fast this machine is: the network alone, and whole images through a queue of its own."""
