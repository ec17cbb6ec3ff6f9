"""Packer's template language: Go's text/template syntax, compiled to Jinja2 syntax trees."""
