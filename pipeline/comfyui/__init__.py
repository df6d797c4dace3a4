"""Node graphs of ComfyUI that remove a background, interpreted as cutouts."""
