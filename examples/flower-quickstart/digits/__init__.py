"""Handwritten digits, learnt together by clients that keep their images to themselves."""
