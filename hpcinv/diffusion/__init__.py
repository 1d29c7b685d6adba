r"""What azula does not give: noise that depends on names, not on who drew it or when."""
