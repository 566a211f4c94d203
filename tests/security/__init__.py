"""The security list: each line of it holds here, or is a limit in SECURITY.md."""
