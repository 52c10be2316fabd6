"""Stored results in the browser: `loupe view` serves them, `loupe report` puts them into one file."""
