"""The files of the web page, which are served as they are."""
