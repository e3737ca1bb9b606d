"""Speech-to-text: engines, and when and how an utterance is handed to them."""
