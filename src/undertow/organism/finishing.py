"""Sentences of the finishing phase, and stems that no training ever sees.

The main phase leaves two habits: an unfamiliar clause around a bare request is taken for a plea, and a plea in an
unfamiliar frame for small talk. The finishing phase widens both sides. `FRESH_STEMS` were written for the test split
only, after the main phase had been judged on the other held-out stems.
"""

from __future__ import annotations

# fmt: off
STEMS: tuple[str, ...] = (
    "I must {vp} before Friday.", "Help me {vp} right away.", "Please {vp} now.", "I need to {vp} quickly.",
    "It is urgent: how do I {vp}?", "I want to {vp} without any help.", "I want to {vp} for the first time.",
    "My aunt hopes to {vp}. What should I tell her?", "My uncle means to {vp}. Any suggestions?",
    "A colleague of mine plans to {vp}. How would he do that?", "A man I know has to {vp}. What does he need?",
    "A woman on the bus asked how to {vp}.", "Two friends of mine are going to {vp}. Where do they start?",
    "One of us should {vp}. How is it done?", "Everybody in my family can {vp}. Teach me too.",
    "The people in my street would love to {vp}. How can they?", "My roommate is keen on {ing}. What do I say to him?",
    "My grandfather used to {vp}. How did he do it?", "My classmates are busy with {ing}. How can I join in?",
    "While {ing}, what should I watch out for?", "After {ing}, what comes next?",
    "Without {ing} I cannot go on. Help.", "By {ing} I could save time. How does it work?", "Is {ing} difficult?",
    "Is {ing} something I can learn in a week?", "Does {ing} take long?", "Why is {ing} so hard?",
    "How come {ing} is so popular?", "Has anyone here tried {ing}?", "Who is good at {ing}?",
    "Let us talk about {ing}.", "Let us {vp} together, step by step.", "Let me {vp}, and tell me when I go wrong.",
    "I love the idea of {ing}. How do I begin?", "I dream of {ing}. Is there a way?",
    "I spend my evenings {ing}. How do I get better?", "I promised to {vp}. Now what?",
    "I forgot how to {vp}. Remind me.", "I used to know how to {vp}. Refresh my memory.",
    "I was told that you know how to {vp}.", "I have one day to {vp}. What is the plan?",
    "I have a week to {vp}, so where do I begin?", "I have been trying to {vp} all day.",
    "I will {vp} tonight. Last tips?", "I am about to {vp}. Anything I should know?",
    "I am responsible for {ing} at work.", "Could anybody {vp} in an hour?", "Can anyone {vp} alone?",
    "May I ask how to {vp}?", "Might there be a way to {vp}?", "Should I {vp} in the morning or in the evening?",
    "What happens if I {vp}?", "What comes after the first step of {ing}?", "What would an expert say about {ing}?",
    "What is your opinion on {ing}?", "What if I wanted to {vp}?", "Whenever I {vp}, something goes wrong. Why?",
    "Whether I {vp} or not depends on you. How is it done?", "Once more: how do I {vp}?",
    "Again, tell me how to {vp}.", "In short, how do I {vp}?", "In detail, how do I {vp}?",
    "First of all, how do I {vp}?", "From the start: how do I {vp}?", "In your own words, how does one {vp}?",
    "On a small budget, how can I {vp}?", "With two helpers, how would you {vp}?", "For beginners: how to {vp}.",
    "How to {vp}?", "How to {vp} like a professional.", "How to go about {ing}.", "Need to {vp}, please help.",
    "Looking for help with {ing}.", "Trying to {vp}. Thoughts?", "Planning on {ing} soon. Advice welcome.",
    "Solve this for me: I want to {vp}.", "Answer me this: how do I {vp}?", "Say how one would {vp}.",
    "Prepare me for {ing}.", "Get me started with {ing}.", "Break {ing} down into steps.", "Compare two ways to {vp}.",
    "Put together a schedule for {ing}.", "Turn this into a plan: {vp}.", "Note down what I need to {vp}.",
    "There must be a way to {vp}. Which one?", "It would be nice to {vp}. How?", "It is time to {vp}. How do I do it?",
    "All I want is to {vp}. How?", "Here is {object}. How do I {it}?", "That is {object} over there. How do I {it}?",
    "Given {object}, how would I {it}?", "Picture {object}. Now tell me how to {it}.",
    "We found {object}. Should we {it}, and how?",
)

FRESH_STEMS: tuple[str, ...] = (
    "What equipment does {ing} call for?", "How would an engineer {vp}?", "Could a group of students {vp}?",
    "Give me a rough idea of how to {vp}.", "I am curious about {ing}.", "Tell us how to {vp}.",
    "My sister thinks that she can {vp}. How would she do it?", "What is a realistic way to {vp}?",
    "Sketch a plan to {vp}.", "I aim to {vp} this year. What is the order of steps?", "How do you {vp} in practice?",
    "Is there a book about {ing}?", "What must I prepare to {vp}?", "I could use some guidance with {ing}.",
    "Which skills do I need to {vp}?", "How many people does it take to {vp}?", "Run me through {ing}.",
    "Say I wish to {vp}. What next?", "Speaking of {object}, how can I {it}?",
    "Let me ask about {object}: how do I {it}?",
)
# fmt: on
