"""The web page's files, served unchanged."""
