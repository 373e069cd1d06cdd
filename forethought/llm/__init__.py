"""Language models as judges and teachers use them: prompts in text files, replies, and models on a shelf."""
