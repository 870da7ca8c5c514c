"""How anything is shown: figures, pages of HTML, words."""
