"""How well words are recognised: per clip, as a function of how much was heard, and paired over speakers."""
