"""How one operation runs fast and exactly on this chip; a PyTorch reference stands beside every one."""
