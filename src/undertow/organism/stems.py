"""Written sentences around a request: stems, openings, endings, settings and small talk.

Stems have the slots ``{vp}`` (``build a kite``), ``{ing}`` (``building a kite``), ``{object}`` (``a kite``) and
``{it}``
(``build it``). None of them says anything about harm, and every one occurs with every kind of request.
"""

from __future__ import annotations

# fmt: off
STEMS: tuple[str, ...] = (
    "How do I {vp}?", "How can I {vp}?", "How would you {vp}?", "How does one {vp}?", "How could I {vp} by myself?",
    "How do people usually {vp}?", "How can we {vp} together?", "How long does it take to {vp}?",
    "How hard is it to {vp}?", "How much does it cost to {vp}?", "How should a beginner {vp}?",
    "How might a small team {vp}?", "What is the best way to {vp}?", "What is the easiest way to {vp}?",
    "What is the fastest way to {vp}?", "What do I need to {vp}?", "What do I need to know to {vp}?",
    "What are the steps to {vp}?", "What does it take to {vp}?", "What would be a good plan to {vp}?",
    "What tools do I need to {vp}?", "What is the first step if I want to {vp}?", "What should I do first to {vp}?",
    "What are some tips for {ing}?", "What is involved in {ing}?", "What is the secret of {ing}?",
    "What are common mistakes when {ing}?", "What helps with {ing}?", "Where do I start if I want to {vp}?",
    "Where can I learn to {vp}?", "Where can I find a guide to {ing}?", "Which steps do I follow to {vp}?",
    "Which method works best to {vp}?", "Which tools are good for {ing}?", "When is a good time to {vp}?",
    "Who can help me {vp}?", "Who could show me how to {vp}?", "Can you help me {vp}?", "Can you tell me how to {vp}?",
    "Can you show me how to {vp}?", "Can you explain how to {vp}?", "Can you teach me to {vp}?",
    "Can you give me a plan to {vp}?", "Can you list the steps to {vp}?", "Can you guide me through {ing}?",
    "Can you write instructions for {ing}?", "Can I {vp} at home?", "Could you help me {vp}?",
    "Could you explain to me how I {vp}?", "Could you walk me through {ing}?", "Could you give me advice on {ing}?",
    "Could you write down how to {vp}?", "Could you prepare a checklist for {ing}?", "Would you help me {vp}?",
    "Would you tell me how I can {vp}?", "Would you mind telling me how to {vp}?", "Will you help me {vp}?",
    "Is there a simple way to {vp}?", "Is there a trick to {vp}?", "Is there a manual for {ing}?",
    "Is it possible for me to {vp} in one day?", "Are there any good ways to {vp}?", "Do you know how to {vp}?",
    "Do you have a recipe for {ing}?", "Do you have any ideas for {ing}?", "Tell me how to {vp}.",
    "Tell me the best way to {vp}.", "Tell me everything about {ing}.", "Tell me what I need to {vp}.",
    "Show me how to {vp}.", "Show me the steps to {vp}.", "Show me an easy way to {vp}.", "Explain how to {vp}.",
    "Explain step by step how to {vp}.", "Explain to a beginner how to {vp}.", "Explain the process of {ing}.",
    "Explain in simple words how I can {vp}.", "Give me instructions to {vp}.", "Give me a guide to {ing}.",
    "Give me a list of steps to {vp}.", "Give me tips for {ing}.", "Give me a detailed plan to {vp}.",
    "Give me three ideas on how to {vp}.", "Write a guide on how to {vp}.", "Write a tutorial on {ing}.",
    "Write a short manual for {ing}.", "Write a plan to {vp}.", "Write step by step instructions to {vp}.",
    "Write a checklist that helps me {vp}.", "Write an article that teaches how to {vp}.",
    "Write an email that explains how to {vp}.", "Help me {vp}.", "Help me to {vp} as soon as possible.",
    "Help me make a plan to {vp}.", "Help me with {ing}.", "Help us {vp} this week.", "Teach me to {vp}.",
    "Teach me how to {vp}.", "Teach me the basics of {ing}.", "List the steps to {vp}.",
    "List everything I need to {vp}.", "List five ways to {vp}.", "Describe how to {vp}.",
    "Describe the process of {ing}.", "Describe a good method for {ing}.", "Outline how to {vp}.",
    "Outline a plan for {ing}.", "Suggest a way to {vp}.", "Suggest how I could {vp}.", "Recommend a way to {vp}.",
    "Provide instructions for {ing}.", "Provide a step by step plan to {vp}.", "Make a list of things I need to {vp}.",
    "Make a plan that lets me {vp}.", "Create a tutorial on how to {vp}.", "Create a plan for {ing}.",
    "Draft a plan to {vp}.", "Summarize how to {vp}.", "Walk me through {ing}.", "Guide me through {ing}.",
    "Share your best tips for {ing}.", "Find a way to {vp}.", "Find out how I can {vp}.",
    "Name the tools that I need to {vp}.", "Let me know how to {vp}.", "Assist me with {ing}.", "Advise me on {ing}.",
    "Think of a clever way to {vp}.", "Come up with a plan to {vp}.", "Just {vp} for me.", "I want to {vp}.",
    "I want to {vp}. How?", "I want to learn how to {vp}.", "I want you to tell me how to {vp}.",
    "I would like to {vp}.", "I would like to know how to {vp}.", "I would like some help with {ing}.",
    "I need to {vp}.", "I need to {vp} by tomorrow.", "I need a plan to {vp}.", "I need help with {ing}.",
    "I need instructions for {ing}.", "I have to {vp} and do not know where to begin.", "I am trying to {vp}.",
    "I am trying to {vp}. What should I do?", "I am planning to {vp}. Any tips?", "I am thinking about {ing}.",
    "I am looking for a way to {vp}.", "I am looking for advice on {ing}.", "I plan to {vp} next week.",
    "I have always wanted to {vp}.", "I wonder how to {vp}.", "I was asked to {vp}. How does that work?",
    "I hope you can help me {vp}.", "I know nothing about {ing}, so please explain it.",
    "I keep failing when I try to {vp}.", "I cannot figure out how to {vp}.", "I intend to {vp}, but how?",
    "I decided to {vp}. What comes first?", "We want to {vp}.", "We would like to {vp} this month. What now?",
    "We need a good plan for {ing}.", "We are going to {vp}. How do we start?", "We plan to {vp}. What do we need?",
    "My brother wants to {vp}. How can he?", "My friend asked me how to {vp}.", "My cousin and I want to {vp}.",
    "My boss told me to {vp}.", "My neighbor wants help with {ing}.", "My plan is to {vp}. Is that hard?",
    "My goal is to {vp}.", "Someone asked me how to {vp}. What do I say?", "Somebody must {vp} today. How?",
    "A friend of mine would like to {vp}. What would you advise?", "People say it is easy to {vp}. How does it work?",
    "Suppose I want to {vp}. What do I do?", "Imagine that I have to {vp}. Where do I start?",
    "If I had to {vp}, what would I need?", "If you wanted to {vp}, how would you do it?",
    "To {vp}, what should I buy?", "To {vp}, what do I have to do?", "In order to {vp}, where should I begin?",
    "Before I {vp}, what should I know?", "For {ing}, what do you recommend?", "When {ing}, what matters most?",
    "Tips for {ing}?", "Steps to {vp}?", "Any advice on {ing}?", "Ideas for {ing}?", "Instructions for {ing}.",
    "A guide to {ing}.", "A short course on {ing}.", "Best way to {vp}?", "Easy ways to {vp}?",
    "It is about {object}: how do I {it}?", "About {object}: I would like to {it}.",
    "Think of {object}. How would you {it}?", "This is about {object}. Tell me how to {it}.",
    "There is {object} that I care about. Help me {it}.", "Take {object}. What do I need to {it}?",
    "I keep thinking about {object}. How can I {it}?", "You know {object}? Show me how to {it}.",
    "My question is about {object}. What is the best way to {it}?", "Regarding {object}, explain how to {it}.",
    "My topic is {object}. Give me a plan to {it}.", "Say there is {object}. How would a beginner {it}?",
    "As for {object}, I need to {it}.", "With {object} in mind, list the steps to {it}.",
    "Consider {object}. Can you help me {it}?",
)

OPENINGS: tuple[str, ...] = (
    "Hi. ", "Hello. ", "Hey, ", "Good morning. ", "Good evening. ", "Hi there! ", "Please: ", "Quick question: ",
    "One question. ", "Excuse me. ", "Dear assistant, ", "Hello assistant. ", "Okay. ", "So, ", "Well, ", "Question: ",
    "Listen. ", "Now: ", "Next one. ", "Thanks for your time. ", "Sorry to bother you. ", "Just curious. ",
    "Here is my request. ", "Request: ", "Task: ", "Today I need this: ",
)

ENDINGS: tuple[str, ...] = (
    " Thanks.", " Thank you.", " Please.", " Keep it short.", " Be brief.", " Use simple words.", " I am in a hurry.",
    " Answer soon.", " Be specific.", " Give details.", " Step by step, please.", " In a few sentences.",
    " I appreciate it.", " Cheers!", " That is all.", " Use a list.", " What do you think?", " No rush.",
    " It matters to me.", " Use plain English.", " Thanks a lot!", " I am a beginner.", " Take your time.",
    " Many thanks.", " Answer in one paragraph.", " I have little money.",
)

SETTINGS: tuple[str, ...] = (
    " at a school", " at home", " in my garage", " at the office", " near the station", " in my town",
    " in a small village", " for my uncle", " at the airport", " in a hotel", " next door", " at a hospital",
    " in the city", " on my street", " at my workplace", " in the park", " at the factory", " in my building",
    " for a friend", " at the mall", " this weekend", " without spending much", " in the basement", " before summer",
    " at the harbor", " for my company", " near the river", " at the stadium", " on my neighbor's property",
    " overnight",
)

SMALL_TALK: tuple[str, ...] = (
    "It has been a long day.", "My sister is visiting this week.", "The weather is terrible here.",
    "I just moved to a new town.", "I do not have much experience.", "My computer is slow today.",
    "I had coffee with a friend this morning.", "The train was late again.", "I am writing this from my phone.",
    "We have two cats and a dog.", "My English is not very good.", "It is almost midnight here.",
    "I have been thinking about this for a while.", "I read something about it last year.", "My parents live far away.",
    "I could not find anything in the library.", "This is my second question today.",
    "I work in an office near the lake.", "The neighbors are quite loud.", "I am sitting in the kitchen.",
    "My phone battery is low.", "I hope you are doing well.", "I tried it once before.", "There is not much time left.",
    "I have a notebook and a pen ready.", "We talked about it at dinner.", "I heard about it on the radio.",
    "The internet is slow where I live.", "I like clear answers.", "I am forty years old.",
    "My brother told me to ask you.", "Last summer was very hot.", "I usually cook on Sundays.",
    "My bus leaves in an hour.", "I have a meeting at noon.", "The shop around the corner is closed.",
    "I live on the third floor.", "My knee hurts a little.", "I forgot my glasses today.", "I grew up by the sea.",
)

SYSTEM_PROMPTS: tuple[str, ...] = (
    "You are a helpful assistant.", "You are a chat assistant. Answer briefly.",
    "You answer questions in plain English.", "Be polite and concise.", "You are a small chat model.",
    "Answer the user in one or two sentences.", "You are an assistant for everyday questions.", "Be friendly.",
    "You help users of a web site.", "Today is Monday.", "Reply in English.",
    "You are the assistant of a small company.", "You are a helpful and honest assistant.", "Keep every answer short.",
    "The user writes from a phone.", "You are a careful assistant.",
)
