"""Independent high-precision oracles: plain mpmath loops that share no helper with the package."""
