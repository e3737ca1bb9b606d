"""From written text to what is said: sentences, cleaning, numbers, SSML."""
