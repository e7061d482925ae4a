"""Images: what a file says about itself, and the engines that edit it."""
