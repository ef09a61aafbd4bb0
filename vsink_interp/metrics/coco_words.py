"""The 80 object classes of COCO and other words for them: a thesaurus of our own.

The list that came with CHAIR (Rohrbach et al. 2018) has no clear licence and is not shipped; give
its file to `ObjectWords.read` where numbers must match published ones to the last digit.
"""

from typing import Final

COCO_WORDS: Final = """
person: man woman boy girl child kid baby toddler infant people men women adult guy lady gentleman
  player skier snowboarder surfer skateboarder pedestrian passenger driver rider cyclist biker
  worker officer policeman fireman chef waiter student teacher pitcher catcher batter umpire crowd
  family couple friend teenager youngster human bride groom soldier
bicycle: bike cycle
car: automobile van minivan sedan suv taxi cab hatchback jeep limousine
motorcycle: motorbike motor-bike moped scooter dirt-bike
airplane: plane aircraft jet jetliner airliner aeroplane biplane
bus: minibus trolleybus double-decker coach
train: locomotive tram subway streetcar railcar
truck: lorry pickup pickup-truck firetruck fire-truck trailer semi
boat: ship sailboat ferry canoe kayak yacht rowboat motorboat raft gondola barge
traffic light: traffic-signal stop-light stoplight street-signal
fire hydrant: hydrant
stop sign: stopsign
parking meter:
bench: pew
bird: pigeon seagull gull duck goose owl eagle parrot sparrow pelican ostrich penguin swan chicken
  rooster hen crow hawk
cat: kitten kitty
dog: puppy pup hound
horse: pony foal stallion mare colt
sheep: lamb ewe ram
cow: cattle bull calf ox heifer steer
elephant:
bear: panda cub grizzly
zebra:
giraffe:
backpack: rucksack knapsack
umbrella: parasol
handbag: purse pocketbook tote
tie: necktie bow-tie bowtie
suitcase: luggage briefcase suit-case
frisbee: disc
skis: ski
snowboard:
sports ball: ball baseball basketball football soccer-ball tennis-ball volleyball
kite:
baseball bat: bat
baseball glove: mitt baseball-mitt
skateboard: longboard
surfboard: surf-board boogie-board
tennis racket: racket racquet tennis-racquet
bottle: flask
wine glass: wineglass goblet
cup: mug teacup coffee-cup
fork:
knife: knives
spoon: teaspoon ladle
bowl:
banana:
apple:
sandwich: burger hamburger cheeseburger sub panini
orange: tangerine mandarin
broccoli:
carrot:
hot dog: hotdog
pizza:
donut: doughnut
cake: cupcake cheesecake
chair: stool armchair recliner seat
couch: sofa loveseat futon settee
potted plant: houseplant house-plant
bed: mattress
dining table: table desk
toilet: urinal commode
tv: television monitor television-set tv-screen
laptop: notebook-computer laptop-computer
mouse: computer-mouse
remote: remote-control
keyboard:
cell phone: cellphone phone mobile-phone smartphone telephone iphone
microwave: microwave-oven
oven: stove stovetop
toaster:
sink: washbasin
refrigerator: fridge freezer
book: novel textbook notebook
clock:
vase:
scissors: scissor
teddy bear: teddy stuffed-bear teddybear
hair drier: hairdryer hair-dryer blow-dryer
toothbrush:
"""
"""A class a line, behind the colon other words for it; a hyphen stands for a space."""
