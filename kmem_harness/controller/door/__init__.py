"""The control socket: who is there, what may be asked, and how an answer is framed."""
