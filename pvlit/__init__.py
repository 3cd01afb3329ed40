"""A literate laboratory for pseudo videos: every method a notebook, every claim a runnable experiment

Modules:

- `pvlit.papers.documents.dctc_loss`: The gradient of CTC divided by the prediction names, for every frame, the character that would help its label most; a small cross-entropy towards these characters is added to the loss."""

__version__ = "0.1.0"
