"""The page that says and shows what was found."""
