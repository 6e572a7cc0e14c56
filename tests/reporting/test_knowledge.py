"""What a result's attack was told: its letter, whether it is an upper bound, and whether that makes it an oracle."""

import pytest
from made_up_run import row
from rich.console import Console

from fedsim import table
from fedsim.knowledge import told, with_knowledge
from fedsim.reporting import leaderboard
from fedsim.reporting.leaderboard import views


def known(**rows):
    """The knowledge of one attack on clients of so many images each, with more values for every row."""
    images, clients = rows.pop("images", 1), rows.pop("clients", 2)
    frame = table.frame(
        [row(**{"sample": i, "client": c, **rows}) for c in range(clients) for i in range(images)]
    )
    found = with_knowledge(frame).select("letter", "beyond", "oracle").unique()
    return found.row(0) if len(found) == 1 else found.rows()


def test_labels_of_several_images_are_told_to_no_real_server():
    assert known() == ("C", "", False)
    assert known(images=2) == ("C", "labels", False)
    assert known(images=2, threat_labels="inferred") == ("C", "", False)
    assert known(images=2, attack="null_mean") == ("C", "", False)  # it does not ask for them


def test_images_of_clients_that_are_attacked_as_one_count_together():
    assert known(clients=3, threat_aggregation="sum_of_3") == ("C", "labels", False)
    assert known(clients=3) == ("C", "", False)


def test_whoever_is_told_what_was_drawn_and_uses_it_is_an_oracle():
    assert known(attack="well_informed", threat_noise="known") == ("C", "noise", True)
    assert known(attack="a_strangers", threat_noise="known") == ("C", "noise", True)
    assert known(attack="inverting_gradients", threat_noise="known") == ("C", "", False)  # told, but deaf to it


def test_a_client_that_failed_belongs_to_its_attack_like_the_others():
    assert known(images=2, status="failed") == ("C", "labels", False)


def test_an_upper_bound_says_so_in_the_table():
    rows = with_knowledge(table.frame([row(sample=i, client=c) for c in range(8) for i in range(2)]))
    board = leaderboard.build(rows)
    assert board.select("letter", "beyond").row(0) == ("C", "labels")
    console = Console(width=120, record=True)
    console.print(views.terminal(board))
    assert "C*" in console.export_text()
    assert "upper bound: labels" in views.html(board)


def test_a_threat_model_that_is_none_is_no_letter():
    with pytest.raises(TypeError):
        told("cut", {"weather": "known"}, images=1)
