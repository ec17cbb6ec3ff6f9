"""What a template may hold: declared once, decoded, rendered and checked."""
