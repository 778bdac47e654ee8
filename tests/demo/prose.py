"""What the demo's running texts say: data, laid out by `documents.py`. Everything in them is invented."""

from __future__ import annotations

from collections.abc import Sequence

from tests.demo.decks import Chart, Table

Block = str | Chart | Table
"""A paragraph, a heading (a string that begins with `# `), a chart or a table."""

TEAM = (
    ("Jonas Weber", "head of engineering", ("Ines Castro", "Tomasz Nowak", "Yuki Mori")),
    ("Priya Raman", "head of design", ("Ola Lind", "Sam Carter")),
    ("Marc Dubois", "head of sales", ("Lena Hartwig", "Ade Bello", "Rosa Ruiz")),
)

_YEARS = ("2019", "2020", "2021", "2022", "2023", "2024")

ANNUAL_REPORT: Sequence[Block] = (
    "# Letter to the shareholders",
    "Dear shareholders, 2024 was the year in which our small company grew up. We moved into a house of our own, we sold our "
    "hundred-thousandth pressure sensor, and for the first time more than half of our customers asked us not only for an "
    "instrument but for somebody who reads it for them. Revenue rose by 17 percent to 161.5 million euros. The profit of the "
    "year was 19.3 million euros, after 15.8 million the year before.",
    "None of this came by itself. In spring a flood in the valley stood eleven centimetres below the door of the calibration "
    "laboratory. Forty of you and of us carried boxes for two nights. Nothing was lost but a coffee machine. I thank everybody "
    "who was there.",
    "In the year ahead we shall open a second factory in Porto, close to the university whose graduates we have hired for ten "
    "years. We shall also say goodbye to the paper recorder, which was our first product in 1987. Amara Osei, managing director.",
    Chart("bar", "Revenue", _YEARS, {"revenue": (96.2, 91.8, 108.4, 122.0, 138.5, 161.5)}, "million euros"),
    "# Key figures",
    "The table shows the five years in which the present accounting rules applied. Figures in brackets are negative. Order "
    "intake counts signed contracts without options; employees are counted as full posts on the last day of December.",
    Table(
        ("Million euros", "2020", "2021", "2022", "2023", "2024"),
        (
            ("Order intake", "95.1", "118.3", "127.9", "149.0", "172.6"), ("Revenue", "91.8", "108.4", "122.0", "138.5", "161.5"),
            ("Gross profit", "51.4", "62.9", "72.0", "83.1", "98.5"), ("Operating result", "6.9", "12.4", "16.8", "21.7", "26.9"),
            ("Profit of the year", "4.2", "8.7", "12.1", "15.8", "19.3"), ("Free cash flow", "(1.4)", "5.8", "7.3", "11.0", "14.2"),
            ("Employees", "688", "731", "790", "842", "917"),
        ),
    ),
    Chart("line", "Operating margin", _YEARS, {"margin": (8.1, 7.5, 11.4, 13.8, 15.7, 16.7)}, "percent of revenue"),
    "# Markets",
    "Europe remains our home market with 46 percent of revenue. Demand from water works was strong in every country, driven "
    "by new limits for losses in pipes. North America grew by nine percent although two large pipeline projects were put off. "
    "Asia grew fastest: in Vietnam and Indonesia our gas detectors became the standard of the national fire services.",
    "Prices rose by three percent on average. Competition was hardest in simple temperature sensors, where makers from three "
    "countries now sell below our cost of material. We have left that market and kept the customers by selling the service.",
    Chart("pie", "Revenue by region, 2024", ("Europe", "North America", "Asia", "South America", "Africa"), {"share": (46, 28, 18, 5, 3)}),
    Table(
        ("Region", "2023", "2024", "Change", "Share"),
        (
            ("Europe", "66.9", "74.3", "+11 %", "46 %"), ("North America", "41.4", "45.2", "+9 %", "28 %"), ("Asia", "20.1", "29.1", "+45 %", "18 %"),
            ("South America", "6.6", "8.1", "+23 %", "5 %"), ("Africa", "3.5", "4.8", "+37 %", "3 %"),
        ),
    ),
    "# Research and development",
    "We spent 17.8 million euros on research and development, eleven percent of revenue. The ceramic cell that was announced "
    "last year passed its endurance test: 10 million pressure cycles without drift. It will replace the steel membrane in all "
    "instruments below 40 bar. Together with the technical university we built a sensor that lives on the heat of the pipe and "
    "needs no battery.",
    "Twenty-three patents were granted, nine of them in Asia. Two were given to the public because we do not want anybody, us "
    "included, to own the way in which leaks are reported.",
    Chart("bar", "Research and development", _YEARS, {"spent": (9.1, 9.9, 11.6, 13.2, 15.4, 17.8), "of which public grants": (1.2, 1.5, 1.1, 1.4, 1.9, 2.2)}, "million euros"),
    "# People",
    "At the end of the year 917 people worked with us, 75 more than a year before. One in three is a woman; among engineers it "
    "is one in four, which we want to change. Fourteen apprentices began in September: eight mechanics, four electricians and, "
    "for the first time, two in data analysis. Three percent of us left by their own wish.",
    "Sick leave was 4.1 percent, lower than in the two years before. The works council and the management agreed on a shorter "
    "week of 36 hours for everybody who works in shifts.",
    Table(
        ("Site", "Engineers", "Production", "Sales", "Total"),
        (("Riverton", "188", "242", "61", "491"), ("Turku", "74", "96", "22", "192"), ("Penang", "31", "104", "40", "175"), ("Denver", "12", "9", "38", "59")),
    ),
    "# Energy and environment",
    "We used 11.2 gigawatt hours of electricity, of which 38 percent came from our own roofs. Since the new heat pump went into "
    "service in March, no building in Riverton burns gas. Emissions per instrument fell from 5.4 to 4.1 kilograms of carbon "
    "dioxide. Water is used in a closed loop; only the loss by evaporation is filled up.",
    Chart("line", "Emissions per instrument", _YEARS, {"CO2": (8.8, 8.1, 7.2, 6.3, 5.4, 4.1)}, "kilograms"),
    Chart("bar", "Electricity by source", _YEARS, {"own solar roofs": (0.4, 0.9, 1.6, 2.4, 3.3, 4.3), "bought": (10.1, 9.2, 9.0, 8.6, 7.8, 6.9)}, "gigawatt hours"),
    "# Risks",
    "Three risks could cost us more than five percent of a year's profit. First, ceramic housings come from one supplier; a "
    "second one is being qualified. Second, a third of our revenue is in dollars; we hedge half of it for twelve months. Third, "
    "an attack on our network could stop production: in October we rehearsed such a case and needed 31 hours to restart from "
    "backups. The goal for 2025 is ten.",
    "# Balance sheet",
    "Total assets grew by 12 percent to 148.7 million euros, mainly through the new building. Equity covers 58 percent of them. "
    "There are no bank loans except the mortgage of 21 million euros at a fixed rate of 2.9 percent until 2034.",
    Table(
        ("Million euros", "31 Dec 2023", "31 Dec 2024"),
        (
            ("Land and buildings", "22.6", "38.9"), ("Machines", "17.0", "18.2"), ("Inventories", "24.1", "23.3"), ("Receivables", "27.7", "30.5"),
            ("Cash", "41.4", "37.8"), ("Total assets", "132.8", "148.7"), ("Equity", "74.9", "86.2"), ("Provisions", "12.2", "13.0"),
            ("Mortgage", "22.0", "21.0"), ("Payables", "23.7", "28.5"), ("Total liabilities", "132.8", "148.7"),
        ),
    ),
    "# Outlook",
    "Orders at hand cover seven months of production. We expect revenue between 183 and 192 million euros in 2025 and an "
    "operating margin of at least 16 percent. We shall propose a dividend of one euro and ten cents a share. The greatest "
    "uncertainty is the price of energy in Asia.",
    Chart("line", "Order intake by month, 2024", ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), {"2023": (11, 11.6, 12.9, 12, 12.2, 13.1, 11.4, 10.2, 13.3, 13.6, 13.9, 13.8), "2024": (12.8, 13.2, 14.6, 14, 14.4, 15.1, 13.3, 11.9, 15.4, 15.8, 16.2, 15.9)}, "million euros"),
)  # fmt: skip

BEE_TITLE = "Wild bees in city gardens: small flower patches matter more than large lawns"
BEE_AUTHORS = "M. Alvarez, K. Lindqvist, F. Okafor"
BEE_ABSTRACT = (
    "Abstract. We counted wild bees in 48 gardens and 12 parks of a middle-sized city over three summers. Gardens with at least "
    "six kinds of flowering plants held 2.7 times as many bee species as lawns of the same area, and the distance to the next "
    "patch of flowers explained more of the variance than the area of the green space. Mowing every six weeks instead of every "
    "two doubled the number of ground-nesting bees. The results suggest that cities can help pollinators with many small patches."
)
BEE_PAPER: Sequence[Block] = (
    "# 1 Introduction",
    "Pollinators decline in farmland all over Europe, but cities have become unexpected refuges. Warm walls, long seasons and a "
    "great variety of garden plants offer food and nesting places from March to October. Which properties of a garden attract "
    "wild bees is less clear: earlier studies disagree on whether the size of a green space or its quality matters more.",
    "We asked three questions. Does the number of bee species grow with the area of a garden? How far do bees fly between "
    "patches of flowers? And what does mowing do to species that nest in the ground?",
    "# 2 Methods",
    "Forty-eight private gardens and twelve public parks were visited every second week from April to September. At each visit "
    "two observers walked a line of 50 metres for fifteen minutes and caught bees with a net. Bees were identified to species, "
    "marked with a dot of paint and released. Coloured pans filled with soapy water were set out for 24 hours once a month.",
    "Flowering plants were counted in ten squares of one metre. Distances to the next flower patch were measured on aerial "
    "photographs. We fitted a mixed model with the garden as a random effect and year, area, plant richness and distance as "
    "fixed effects.",
    Table(("Habitat", "Sites", "Visits", "Bees"), (("Flower garden", "26", "1,014", "9,871"), ("Vegetable plot", "22", "858", "6,240"), ("Park meadow", "5", "195", "1,377"), ("Park lawn", "7", "273", "612"))),
    "# 3 Results",
    "In total we recorded 18,100 bees of 114 species. The most frequent were the buff-tailed bumblebee, the red mason bee and "
    "the common furrow bee. Eleven species stand on the regional red list, among them two that had not been seen in the city "
    "since 1974.",
    Chart("bar", "Bee species per site", ("Garden", "Vegetables", "Meadow", "Lawn"), {"species": (27, 22, 24, 10)}, "mean number of species"),
    "Species richness rose with plant richness up to about fifteen kinds of plants and then levelled off. Area had no "
    "measurable effect once plant richness was in the model. Marked bees were seen again at a median distance of 140 metres; "
    "beyond 300 metres of lawn or asphalt hardly any bee returned.",
    Chart("line", "Bees seen again, by distance", ("50", "100", "150", "200", "250", "300", "350"), {"marked bees": (61, 48, 33, 19, 9, 3, 1)}, "percent; metres"),
    "Where lawns were mowed every six weeks, nests of ground-nesting bees were twice as dense as on lawns mowed every two "
    "weeks. The effect was strongest on south-facing slopes with sandy soil.",
    Chart("bar", "Nests and mowing", ("2 weeks", "4 weeks", "6 weeks"), {"nests": (3.1, 4.4, 6.3)}, "nests per 10 square metres"),
    "# 4 Discussion",
    "Small patches close to each other work like stepping stones. A balcony box with lavender is not a meadow, but it shortens "
    "the way between two meadows. City planners who count hectares miss this: the same area cut into many pieces served bees "
    "better than one large lawn.",
    "Our counts have limits. Observers saw large bees more easily than small ones, and gardens were not chosen at random, since "
    "their owners had answered an advertisement. The pans catch few bumblebees. All three summers were warmer than the mean.",
    "# 5 Conclusion",
    "Plant six kinds of flowers, mow every six weeks, leave a square metre of bare sand: this costs little and can be done on "
    "any ground. Data and code are available from the authors.",
    "# References",
    "[1] Hall, P. Bees of old walls. Urban Naturalist 12, 2016. [2] Ito, R. and Berg, S. Mowing and nests. Journal of Garden "
    "Ecology 4, 2019. [3] Novak, J. How far does a mason bee fly? Pollination Letters 7, 2020. [4] Osei, D. Lawns: a critique. "
    "City Green 31, 2021.",
)  # fmt: skip

MACHINE_PARTS = (
    "Pressure gauge", "Buttons: coffee, water, steam", "Brew head", "Filter holder", "Steam wand", "Cup", "Drip tray", "Water tank",
)  # fmt: skip
COFFEE_MANUAL: Sequence[Block] = (
    "# Safety",
    "Read this page before you plug the machine in. Steam and hot water can burn the skin: never hold a hand under the brew "
    "head or the steam wand while a light is blinking. Do not put the machine into water. Pull the plug before cleaning. Keep "
    "the cable away from the hot cup plate. Children under eight may use the machine only with an adult beside them.",
    "The machine may be opened by a trained electrician only. If water runs out below it, switch off the fuse first.",
    "# Before the first coffee",
    "Rinse the water tank (8) and fill it with fresh cold water up to the mark MAX. Put a large cup below the brew head (3), "
    "press the water button and let one tank run through. Wipe the steam wand (5) with a damp cloth.",
    Table(("What", "Value"), (("Voltage", "230 V, 50 Hz"), ("Power", "1,350 W"), ("Pump pressure", "15 bar"), ("Water tank", "1.8 litres"), ("Weight", "6.2 kg"), ("Heating time", "35 seconds"))),
    "# Making an espresso",
    "Put 8 grams of finely ground coffee into the filter holder (4) for one cup, 16 grams for two. Press it down level with the "
    "tamper, wipe the rim, and turn the holder into the brew head until it points to the front. Place a warm cup on the drip "
    "tray (7). Press the coffee button. A good espresso runs for 25 seconds: thin as a mouse's tail, the colour of hazelnut.",
    "If it runs faster, grind finer. If it drips, grind coarser. The needle of the gauge (1) should stand between 8 and 10 bar.",
    Chart("line", "Pressure while brewing", ("0", "5", "10", "15", "20", "25", "30"), {"pressure": (0.5, 3.2, 8.6, 9.1, 9.0, 8.9, 1.0)}, "bar; seconds after start"),
    "# Milk foam",
    "Use cold milk, straight from the refrigerator. Press the steam button and wait until the light stays on. Open the wand for "
    "a second to let water out. Hold the tip just below the surface until the milk has grown by half, then dip it deeper until "
    "the jug is too hot to touch. Clean the wand at once: dried milk blocks it.",
    "# Descaling",
    "When all three lights blink in turn, the machine wants to be descaled; with hard water this is every two months. Empty the "
    "drip tray. Fill the tank with one litre of water and one sachet of citric acid. Press coffee and steam together for five "
    "seconds. The programme takes 18 minutes and pauses in between. Rinse with two tanks of fresh water.",
    Table(("Water hardness", "Descale every"), (("soft, below 8 dH", "4 months"), ("medium, 8 to 14 dH", "3 months"), ("hard, above 14 dH", "2 months"))),
    "# If something goes wrong",
    Table(
        ("Symptom", "Cause", "Remedy"),
        (
            ("No light", "no power", "check plug and fuse"), ("Pump is loud", "tank is empty", "fill the tank"), ("Coffee is cold", "cold cup", "warm the cup"),
            ("Water at the rim", "worn seal", "replace the seal"), ("No steam", "blocked wand", "clean with a needle"), ("Lights blink in turn", "lime", "descale"),
        ),
    ),
    "# Guarantee and recycling",
    "The guarantee is three years from the day of purchase; keep the receipt. Worn seals and lime are not covered. Old machines "
    "do not belong into the dustbin: your dealer takes them back free of charge.",
)  # fmt: skip

INVOICE = Table(
    ("Work and parts", "Quantity", "Price", "Amount"),
    (
        ("Bicycle inspection, large", "1", "89.00", "89.00"), ("Chain, 11-speed", "1", "34.50", "34.50"), ("Brake pads, front and rear", "2", "18.00", "36.00"),
        ("Tyre 700 x 32, puncture-proof", "2", "39.00", "78.00"), ("Wheel truing", "1", "26.00", "26.00"),
    ),
)  # fmt: skip
INVOICE_NOTE = (
    "Please pay within 14 days to Spoke & Chain, account RV00 1234 0000 5678 90, quoting the invoice number. The red city bicycle "
    "can be collected Monday to Friday between 10 and 18 o'clock. Thank you for riding!"
)

RECIPES = (
    (
        "Pizza from your own oven", "for four people, 30 minutes and a night of waiting", "pizza",
        ("500 g strong flour", "325 g cold water", "10 g salt", "2 g fresh yeast", "1 tin of tomatoes", "250 g mozzarella", "80 g salami", "fresh basil", "olive oil"),
        ("Mix flour, water, salt and yeast; knead for ten minutes until the dough is smooth.",
         "Let it rest in the refrigerator overnight, covered.",
         "Form four balls and let them rise for two hours at room temperature.",
         "Heat the oven as hot as it goes, with a stone or an upturned tray in it.",
         "Stretch a ball by hand, never with a pin. Spread crushed tomatoes, then cheese and salami.",
         "Bake for six to eight minutes until the rim has brown blisters. Basil comes last."),
    ),
    (
        "Birthday chocolate cake", "two floors, twelve pieces", "birthday_cake",
        ("200 g dark chocolate", "200 g butter", "250 g sugar", "6 eggs", "180 g flour", "1 sachet baking powder", "400 ml cream", "raspberry jam", "candles"),
        ("Melt chocolate and butter over warm water. Let the mixture cool a little.",
         "Whisk eggs and sugar for eight minutes until pale and thick.",
         "Fold in the chocolate, then flour and baking powder, with a light hand.",
         "Bake in two tins at 170 degrees: 40 minutes for the large one, 30 for the small one.",
         "Cut each in half, spread with jam, stack them and cover with whipped cream.",
         "Sugar pearls, candles, matches. Sing before cutting."),
    ),
    (
        "Fruit salad with mint", "for six people, ready in 20 minutes", "fruit_bowl",
        ("3 apples", "2 oranges", "2 bananas", "200 g grapes", "1 lemon", "2 spoons of honey", "fresh mint", "a handful of walnuts"),
        ("Squeeze the lemon and stir the honey into the juice.",
         "Cut apples and oranges into pieces no larger than a grape; halve the grapes.",
         "Mix everything but the bananas at once, so that the apples stay white.",
         "Chill for half an hour. Slice the bananas over it just before serving.",
         "Scatter chopped mint and walnuts on top."),
    ),
)  # fmt: skip

RENTAL_AGREEMENT: Sequence[Block] = (
    "# Rental agreement",
    "This agreement is made on the first of June 1994 between Mr Albert Finch, 3 Orchard Lane, in the following the landlord, and "
    "Miss Clara Benning, in the following the tenant.",
    "1. The landlord lets to the tenant the flat on the second floor of 17 Canal Street, consisting of two rooms, a kitchen, a "
    "bathroom and a cellar, with three keys.",
    "2. The rent is 640 marks a month and is due on the third working day. Heating and water are paid in advance with 95 marks a "
    "month and accounted for once a year.",
    "3. The deposit is two months' rent. It bears interest and is returned within six weeks after the tenant has moved out.",
    "4. The tenant may keep a cat. Dogs need the consent of the landlord. Music after ten in the evening is to be kept low.",
    "5. Small repairs up to 80 marks are borne by the tenant, but no more than 240 marks a year. Damage is to be reported without "
    "delay.",
    "6. Either side may end this agreement in writing with three months' notice to the end of a month.",
    "7. The stairs are swept every second week, snow is cleared in turns. Bicycles are kept in the yard, not in the corridor.",
    "8. The flat is handed over painted white. Marks on the wooden floor in the front room were there before and are not the tenant's.",
    "9. Changes of this agreement must be in writing. If one clause is void, the others stay in force.",
)

TYPED_LETTER = (
    "Harbour Office, Heron Island", "14 November 1987", "", "Dear Mr Lindgren,", "",
    "thank you for your letter about the lighthouse. The lamp was indeed changed in the autumn of 1953, when the old oil burner "
    "gave way to an electric one. The clockwork that turned the lens still exists: it stands in the hall of our museum, and on "
    "Sundays the children are allowed to wind it up.",
    "",
    "Your grandfather kept the light from 1921 to 1948. In the log book he wrote down every ship, every storm and, on the 2nd of "
    "March 1936, the birth of your mother, between a schooner and a fog bank. I enclose a photograph of that page.",
    "",
    "The ferry runs on Tuesdays and Fridays until the ice comes. If you wish to see the tower, telephone the day before, so that "
    "somebody can find the key.",
    "", "With kind regards,", "", "Elsa Holm, harbour mistress",
)  # fmt: skip
