"""What stands behind `manage.py taskworker`.

flags.py    its flags, and their environment variables
options.py  what the flags and the settings say together
"""
