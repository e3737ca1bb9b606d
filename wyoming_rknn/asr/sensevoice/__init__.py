"""SenseVoice: one pass over an utterance gives its text, language, emotion and events."""
