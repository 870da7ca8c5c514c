"""What tests look for in a figure."""

import matplotlib

from zoo.pages import style


def lines(ax, label):
    return [line for line in ax.lines if line.get_label() == label]


def axes(figure):
    """Those with data, not colour bars."""
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]


def words(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def inside(name, figure):
    style.styled(figure.draw_without_rendering)()
    box = figure.bbox
    for ax in figure.axes:
        tight = ax.get_tightbbox()
        if tight is not None:
            assert (
                tight.x0 >= -1
                and tight.y0 >= -1
                and tight.x1 <= box.x1 + 1
                and tight.y1 <= box.y1 + 1
            ), name
    (legend,) = figure.legends or [None]
    if legend is not None:
        bottom = min(tight.y0 for ax in figure.axes if (tight := ax.get_tightbbox()) is not None)
        assert legend.get_window_extent().y1 <= bottom + 1, f"{name}: the legend covers axes"
        assert legend.get_window_extent().y0 >= -1
