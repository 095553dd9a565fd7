"""The texts that the sentence encoder is tried on, all written for this benchmark."""

PARAPHRASES = (
    ("A man is eating soup in the kitchen.", "Someone has a bowl of soup at home."),
    ("The train to the coast leaves at noon.", "At twelve o'clock the railway service departs for the sea."),
    ("Her laptop stopped working after the update.", "The new software version broke her computer."),
    ("The government raised taxes on petrol.", "Fuel duties were increased by the state."),
    ("Children are playing football in the park.", "Some kids kick a ball around on the grass."),
    ("The doctor told him to sleep more.", "He was advised by his physician to get more rest."),
    ("It rained so hard that the street flooded.", "A heavy downpour put the road under water."),
    (
        "The restaurant was full, so we ate somewhere else.",
        "There was no free table, and we had dinner elsewhere.",
    ),
    ("Bees are dying because of pesticides.", "Chemicals used on crops are killing pollinating insects."),
    ("She has played the violin since she was six.", "She learned her string instrument as a small child."),
)
"""Two ways to say a thing."""

SINGLES = (
    "The stock market fell by two percent on Monday.",
    "Add a pinch of salt to the boiling water.",
    "The telescope found a planet around a distant star.",
    "My neighbour painted his fence green.",
    "The judge postponed the trial until next month.",
    "Whales migrate thousands of kilometres every year.",
    "The password must have at least twelve characters.",
    "He missed the penalty in the last minute of the final.",
    "The museum shows paintings from the seventeenth century.",
    "Concrete needs several weeks to reach its full strength.",
)
"""Sentences that have no pair."""

RETRIEVAL = (
    (
        "How do I change the oil of my car?",
        "Drain the old lubricant, replace the filter and refill the engine.",
    ),
    (
        "What is the capital of Australia?",
        "Canberra has been the seat of the Australian government since 1927.",
    ),
    ("Why is the sky blue?", "Air molecules scatter short wavelengths of sunlight more than long ones."),
    (
        "How long should I boil an egg?",
        "After six minutes in hot water the yolk is still soft, after ten it is firm.",
    ),
    ("Who wrote Hamlet?", "Shakespeare finished the tragedy of the Danish prince around 1600."),
    ("How can I lower my heating bill?", "Insulate the roof and turn the thermostat down at night."),
    ("What causes earthquakes?", "Tectonic plates slip along faults and release stored energy."),
    ("How do vaccines work?", "They train the immune system to recognise a germ before it infects the body."),
    ("How do I reset a forgotten password?", "Follow the link on the login page and wait for the e-mail."),
    (
        "When should tomatoes be planted?",
        "Put the seedlings outside once the last frost of spring has passed.",
    ),
    ("What does a central bank do?", "It sets interest rates and keeps prices stable."),
    ("How do I train a puppy?", "Reward the young dog at once whenever it does what you want."),
)
"""A question and the passage that answers it."""

DISTRACTORS = (
    "Old cars lose value quickly in their first years.",
    "Olive oil should be kept in a dark place.",
    "Sydney is the largest city of the country, with five million people.",
    "Vienna is the capital of Austria.",
    "The sky was cloudy for most of the week.",
    "Blue paint was once made from a rare stone.",
    "Hens lay fewer eggs in winter.",
    "Water boils at a lower temperature on a mountain.",
    "The actor played Hamlet for two seasons in London.",
    "Tolstoy wrote his novels on a farm near Tula.",
    "The electricity bill arrives once a quarter.",
    "A gas boiler should be serviced every year.",
    "The earthquake damaged hundreds of houses in the old town.",
    "Volcanoes release gases that can warm the climate.",
    "The vaccine was delivered to the hospitals in cooled boxes.",
    "Antibiotics do not help against a cold.",
    "A good password is long and is used for one account only.",
    "The login page was rebuilt by a new team.",
    "Tomatoes were brought to Europe from South America.",
    "Potatoes are stored in a cool cellar.",
    "The bank on the corner closes at four.",
    "Interest in the central park has grown among tourists.",
    "The puppy chewed the legs of the table.",
    "Trains with dogs on board have a special coach.",
)
"""Passages that answer none of the questions, but sound like them."""

CALIBRATION = (
    "The bridge was closed for repairs all summer.",
    "Researchers measured the temperature of the deep ocean.",
    "Please send me the invoice by the end of the week.",
    "A cat slept on the warm roof of the car.",
    "The company hired twenty engineers last year.",
    "Where can I buy tickets for the concert?",
    "Old letters were found in the attic of the house.",
    "The recipe needs flour, butter and three apples.",
    "Voters elected a new mayor on Sunday.",
    "The battery lasts for about ten hours.",
    "Snow fell on the mountains during the night.",
    "She translated the novel from Spanish.",
    "The pilot landed the plane safely in the fog.",
    "What is the difference between a virus and a bacterium?",
    "They planted oak trees along the river.",
    "The exam covers the first five chapters of the book.",
)
"""What `recover` may see; none of it is used to measure."""

SENTENCES = (*(text for pair in PARAPHRASES for text in pair), *SINGLES)
