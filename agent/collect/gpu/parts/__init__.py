"""What one GPU is asked, one file per topic; each part names the tier in which it is due."""
